"""How the embedded weights were made: pretraining on pictures drawn by formula, no photograph among them.

``python -m helpers.pretraining resnet_small --folder data/pretraining`` draws the pictures (``pictures``), computes
what the network is to tell of each (``statistics``), trains it (``training``) and writes the file of weights. Run
again after an interruption, it goes on where it stopped.

References
----------
Kataoka et al. 2020, *Pre-training without Natural Images*; Baradad et al. 2021, *Learning to See by Looking at Noise*.
"""
