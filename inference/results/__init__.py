"""What a fit becomes: InferenceData, predictions, scores, distances, the verdict, a comparison."""
