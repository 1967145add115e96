"""What a run will do, and why it could not: told before any of it is done.

A check is a small function of parameters and files, and says each problem in a sentence. Nothing here loads a model.
What cannot be known yet is left to the node itself, or, of lengths, checked as soon as the data are tokenised.
"""
