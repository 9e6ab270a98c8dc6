"""What recognises a concept in a picture: one file a kind."""
