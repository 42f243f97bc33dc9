"""The dashboard: what people see of the broker, and the few things that they can do there.

A page is a module in `pages`: it exposes `routes`, its endpoints take a request and return `page(request, …)`. Login,
Host and Origin checks, CSRF tokens and headers are none of a page's business: `security` holds for every route.

    app         the routes, the guards around them, and error pages
    context     what a page works with: the ledger, people's decisions, revocations, the clock
    security    who may reach a page at all
    sessions    who is logged in;  links: how a browser logs in
    rendering   templates and what they can say;  wording: an audit event in words
    serving     the process

The process never sees a value: there is no field for one in anything that it reads.
"""
