"""Parameters become answers: the protocol's numbers, the gallery, the pictures and the page."""
