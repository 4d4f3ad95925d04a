"""How good a result is: measures of pictures and meshes, alignment before measuring, and what a report says."""
