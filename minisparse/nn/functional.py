"""The operators of layers and losses under torch's names, for `import minisparse.nn.functional as F`."""
from ..activations import (dropout, gelu, leaky_relu, log_softmax, relu, sigmoid,  # noqa: F401
                           silu, softmax, tanh)
from ..conv import adaptive_avg_pool2d, avg_pool2d, conv2d, max_pool2d  # noqa: F401
from ..linear import linear  # noqa: F401
from ..loss import (binary_cross_entropy_with_logits, cross_entropy, huber_loss, l1_loss,  # noqa: F401
                    mse_loss, nll_loss, smooth_l1_loss)
from ..normalization import batch_norm, layer_norm  # noqa: F401
from ..shapes import one_hot, pad  # noqa: F401
