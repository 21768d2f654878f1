"""How can one see an idea? A module of drawings for each homework, all made of `sketch`'s few shapes.

Start with :func:`sketch.paper`, :func:`sketch.block` and :func:`sketch.arrow`. A drawing takes no
measurements: what it shows is computed on a handful of numbers, or is the structure itself.
"""
