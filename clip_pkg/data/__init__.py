"""From decoded pixels to batches on the device."""
