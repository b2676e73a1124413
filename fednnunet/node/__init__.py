"""The program at a site, which runs nnU-Net."""
