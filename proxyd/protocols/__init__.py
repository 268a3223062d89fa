"""The protocols: one package each; they never import each other."""
