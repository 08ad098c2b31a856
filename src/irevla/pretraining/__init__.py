"""A vision-language model of our own, pretrained: pictures of procedural scenes, questions about
them, and the fit."""
