"""An example service: wallets, with transfers as a saga. `ES_FEATURES=examples.wallets es up` runs it.

wallet.py is the aggregate, projections.py its read models, transfers.py and welcome.py two processes.
"""

import es
from examples.wallets.projections import Balances, Statements
from examples.wallets.transfers import TRANSFER, TRANSFERS
from examples.wallets.wallet import WALLET
from examples.wallets.welcome import WELCOME

AGGREGATES = (WALLET, TRANSFER)
PROJECTIONS = (Balances(), Statements())
PROCESSES = (TRANSFERS, WELCOME)
FEATURE = es.Feature(
    name="wallets",
    help="Open wallets and move money between them.",
    model=__name__,
    roles=(es.Role("wallets", needs=("ids",)),),
)
