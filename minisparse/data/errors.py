class DataError(ValueError):
    """Data that cannot be used: one or two lines that name the file and say what to do about it."""
