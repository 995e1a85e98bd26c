"""Sight trained: digits in a row to read out, with the text model frozen or everything from scratch.

python -m anatomy.train.vision            trains what is missing, as `make models` does, and says what it reads
python -m anatomy.train.vision vision     trains one
"""
