"""Sight trained: digits in a row to read out, with the text model frozen or everything from scratch."""
