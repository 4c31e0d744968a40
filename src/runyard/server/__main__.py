"""``python -m runyard.server``: one server for one home folder, until TERM. Runs outlive it."""

import gc
import sys

# What imports make is never garbage, and looking for some in it costs a tenth of the start; serve() begins to look.
gc.disable()

from runyard.server.serve import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
