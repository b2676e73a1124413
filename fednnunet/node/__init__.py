"""The program at a site: Flower clients that wrap nnU-Net."""
