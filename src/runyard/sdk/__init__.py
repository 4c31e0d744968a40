"""v1's nouns, one a file, over the routes; what scripts and notebooks hold in their hands."""
