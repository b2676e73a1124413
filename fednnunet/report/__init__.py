"""Shows people what happens: progress, tables, pictures, pages."""
