"""Networks that turn images into features, and their weight files.

- ``feature_networks``: the table of extractors by name; ``base_extractor``: their base class.
- Extractors: ``inception``, ``vit`` (CLIP, DINOv2), ``resnet``, ``timm_network``, ``bundled``.
- Distances and losses: ``lpips_network``, ``dipd``, ``vgg``, ``discriminator_features``; ``classifier``.
- ``weight_files``: what is published where, and where it is on this machine; ``weight_loading`` reads it.
"""
