"""Features to numbers, and the adapters to clean-fid and lpips."""
