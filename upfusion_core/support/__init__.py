"""What every layer uses: errors, checks, files, pictures, devices."""
