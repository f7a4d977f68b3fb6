"""The paper's figures and what follows from them, a file each; files with a leading _ are shared helpers."""
