"""What is usually drawn on a slide, as experiments: a file per claim (see docs/lecture.md)."""
