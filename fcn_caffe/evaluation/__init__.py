"""What a trained net is worth: scores, predictions, pictures, features."""
