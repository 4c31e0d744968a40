"""One module of handlers a noun; a handler is named as its route and returns what the route promises."""
