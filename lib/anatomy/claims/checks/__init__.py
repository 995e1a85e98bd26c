"""Checks of the claims, a module or package for each section of the article; none imports those of another section."""
