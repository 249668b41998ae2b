"""Attribution: which module, which phase and which gradient an op belongs to."""
