"""The claims of the three papers and how they are decided; `theory.claims.registry.CLAIMS` holds them all."""
