"""Networks that are TensorFlow graphs: frozen GraphDefs and SavedModels."""
