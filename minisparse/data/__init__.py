"""Images in, batches out: readers, drawn animals, augmentation and the loader."""
from . import drawn  # noqa: F401
from .augment import Augment, channel_stats  # noqa: F401
from .cifar import read_cifar10  # noqa: F401
from .errors import DataError  # noqa: F401
from .images import ImageSet, read_images, read_validation  # noqa: F401
from .loader import Loader  # noqa: F401
from .mnist import read_mnist  # noqa: F401
