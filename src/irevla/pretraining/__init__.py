"""A vision-language model of our own, pretrained: images of procedural scenes, questions about
them, and the fit."""
