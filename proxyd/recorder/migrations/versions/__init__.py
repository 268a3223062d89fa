"""One module a revision: never edited once released, only followed by the next."""
