"""What every layer uses: errors, checks, files, weights, pictures, devices, Ctrl-C."""
