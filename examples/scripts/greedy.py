# Wants more memory than there is.
hoard = []
while True:
    hoard.append("x" * 100000 + str(len(hoard)))
