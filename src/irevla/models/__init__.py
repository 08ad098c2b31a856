"""The vision-language-action model."""
