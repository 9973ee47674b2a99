"""What keeps an answer to a form: grammars compiled aside, masks computed beside the forward pass."""
