"""The suite `metaworld`."""
