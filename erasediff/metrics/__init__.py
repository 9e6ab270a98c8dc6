"""Numbers about images: tensors in, numbers out."""
