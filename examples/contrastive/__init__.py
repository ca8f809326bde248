"""The comparison of losses for pre-training without labels."""
