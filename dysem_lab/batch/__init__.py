"""The batch: jobs, how they run, and the gallery of what they made."""
