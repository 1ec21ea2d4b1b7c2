"""Static pages: the explorers without Python, on vectors that were captured before."""
