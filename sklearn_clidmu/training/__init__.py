"""Training with skorch: data on the device, the network, the meta steps, the stages of a fit."""
