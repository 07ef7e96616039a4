"""Published measurements, how far predictions are from them, and the constants fitted on a declared part of them."""
