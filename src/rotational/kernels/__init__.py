"""The step of an optimizer over lists of tensors: `pieces` cuts the work, `foreach` does it with torch's operations."""
