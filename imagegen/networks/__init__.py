"""Image networks: DiT and an EDM-style U-Net, called per sample as `network(image, noise_label, cond)`."""
