"""What every part of the inference stands on."""
