"""The step of an optimizer over lists of tensors. So far one way to run it: torch's foreach operations."""
