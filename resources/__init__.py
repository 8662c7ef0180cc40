"""Pictures, and the recipe of the mini checkpoint."""
