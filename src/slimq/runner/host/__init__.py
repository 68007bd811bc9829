"""Programs that run inside contexts. They import nothing of ours, and nothing imports them."""
