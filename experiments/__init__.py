"""The paper's figures and what follows from them, a file each; names that begin with _ are what files share."""
