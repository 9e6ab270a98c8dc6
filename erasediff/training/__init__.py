"""What base training and erasing share: state, checkpoints, sharding."""
