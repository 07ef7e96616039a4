"""taicang: an AI supernode in software."""

__version__ = "0.1.0"
