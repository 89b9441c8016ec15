/* create_task(), create_future(), and what the Python half of EventLoop asks
 * about native tasks. */
#include <Python.h>

#include "methods.h"

#include <string.h>

#include "sched/args.h"
#include "sched/task.h"

const char Loop__create_native_task_doc[] = PyDoc_STR(
             "_create_native_task($self, /, coro, *, name=None, context=None, "
             "root=False)\n--\n\n"
             "Make a pyloop.Task of a coroutine or generator.");

/* Of (coro, name, context), for `who`. */
static PyObject *
create_native(LoopObject *self, PyObject *bound[3], const char *who,
              bool is_root)
{
    if (loop_check_usable(self) < 0 || loop_check_thread(self, who) < 0
        || task_check_coroutine(self->state, bound[0], who) < 0)
    {
        return NULL;
    }
    for (int i = 1; i < 3; i++) {
        if (bound[i] == Py_None) {
            bound[i] = NULL;
        }
    }
    if (bound[2] != NULL && !PyContext_CheckExact(bound[2])) {
        PyErr_Format(PyExc_TypeError,
                     "context must be a contextvars.Context or None, not %R",
                     bound[2]);
        return NULL;
    }
    PyObject *name = bound[1] != NULL ? PyObject_Str(bound[1]) : NULL;
    if (bound[1] != NULL && name == NULL) {
        return NULL;
    }
    TaskObject *task = task_new(self, bound[0], name, bound[2], is_root);
    Py_XDECREF(name);
    return (PyObject *)task;
}

PyObject *
Loop__create_native_task(LoopObject *self, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"coro", "name", "context", "root"};
    static const struct args_spec spec
        = {"_create_native_task", names, 4, 1, 1};
    PyObject *bound[4];
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    bool is_root = bound[3] == Py_True;
    return create_native(self, bound, is_root ? "run()" : "EventLoop(main=)",
                         is_root);
}

const char Loop_create_task_doc[]
    = PyDoc_STR("create_task($self, /, coro, **kwargs)\n--\n\n"
                "Make a task: of a generator a pyloop.Task, of a coroutine an "
                "asyncio.Task.\n\n"
                "Keyword arguments are those of asyncio.Task (name, context, "
                "...).\n\n"
                "Example:\n    loop.create_task(self.serve_client(conn))");

/* Whether asyncio, too, takes this loop for the running one. */
static int
is_running_for_asyncio(LoopObject *self)
{
    if (loop_running_here() != self) {
        return 0;
    }
    PyObject *running = PyObject_CallNoArgs(self->state->get_running_loop);
    Py_XDECREF(running); /* whoever runs it holds it */
    return running == NULL ? -1 : running == (PyObject *)self;
}

/* type(*args, loop=self), with room for one more in args.  The running loop is
 * what a task or future takes that is not told of one, and without keyword
 * arguments it is made with less ado. */
static PyObject *
call_with_loop(LoopObject *self, PyObject *type, PyObject **args, size_t n)
{
    int is_running = is_running_for_asyncio(self);
    if (is_running < 0) {
        return NULL;
    }
    args[n] = (PyObject *)self;
    return PyObject_Vectorcall(type, args, n,
                               is_running ? NULL : self->state->kwnames_loop);
}

const char Loop_create_future_doc[]
    = PyDoc_STR("create_future($self, /)\n--\n\n"
                "Return a new asyncio.Future of this loop.\n\n"
                "Example:\n    answer = loop.create_future()");

PyObject *
Loop_create_future(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *args[1];
    return call_with_loop(self, self->state->AsyncioFuture, args, 0);
}

/* asyncio.Task(coro, loop=self, **kwargs). */
static PyObject *
new_asyncio_task(LoopObject *self, PyObject *coro, PyObject *const *kwvalues,
                 PyObject *kwnames)
{
    struct module_state *state = self->state;
    PyObject *stack[8] = {coro, (PyObject *)self};
    Py_ssize_t n = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    if (n == 0) {
        return call_with_loop(self, state->AsyncioTask, stack, 1);
    }
    PyObject *names = PyTuple_New(n + 1);
    if (names == NULL) {
        return NULL;
    }
    PyTuple_SET_ITEM(names, 0, Py_NewRef(state->str_loop));
    for (Py_ssize_t i = 0; i < n; i++) {
        PyTuple_SET_ITEM(names, i + 1,
                         Py_NewRef(PyTuple_GET_ITEM(kwnames, i)));
        stack[i + 2] = kwvalues[i];
    }
    PyObject *task = PyObject_Vectorcall(state->AsyncioTask, stack, 1, names);
    Py_DECREF(names);
    return task;
}

/* Whether create_task() was given what only we give to the task. */
static bool
names_a_loop(PyObject *kwnames)
{
    Py_ssize_t n = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i),
                                             "loop")
            == 0)
        {
            return true;
        }
    }
    return false;
}

/* A task factory, whose calling convention differs from version to version,
 * and every error: asyncio's own. */
static PyObject *
create_as_asyncio(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    Py_ssize_t n = nargs + (kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0);
    PyObject **stack = PyMem_New(PyObject *, (size_t)n + 1);
    if (stack == NULL) {
        return PyErr_NoMemory();
    }
    stack[0] = (PyObject *)self;
    if (n > 0) {
        memcpy(stack + 1, args, (size_t)n * sizeof(*args));
    }
    PyObject *task = PyObject_Vectorcall(self->state->BaseCreateTask, stack,
                                         (size_t)nargs + 1, kwnames);
    PyMem_Free(stack);
    return task;
}

PyObject *
Loop_create_task(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    PyObject *coro = nargs == 1 ? args[0] : NULL;
    if (nargs == 0 && kwnames != NULL) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
            if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i),
                                                 "coro")
                == 0)
            {
                coro = args[i];
            }
        }
    }
    if (coro != NULL && PyGen_CheckExact(coro)) {
        static const char *const names[] = {"coro", "name", "context"};
        static const struct args_spec spec = {"create_task", names, 3, 1, 1};
        PyObject *bound[3];
        return args_bind(&spec, args, nargs, kwnames, bound) < 0
                   ? NULL
                   : create_native(self, bound, "create_task()", false);
    }
    if (nargs == 1 && self->task_factory == NULL && !self->closed
        && (kwnames == NULL || PyTuple_GET_SIZE(kwnames) <= 6)
        && !names_a_loop(kwnames))
    {
        return new_asyncio_task(self, args[0], args + 1, kwnames);
    }
    return create_as_asyncio(self, args, nargs, kwnames);
}

const char Loop__native_tasks_doc[]
    = PyDoc_STR(
             "_native_tasks($self, /)\n--\n\n"
             "Return the list of pyloop.Tasks that have not ended, oldest "
             "first.");

PyObject *
Loop__native_tasks(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(0);
    struct list *node = list_first(&self->tasks.live);
    for (; list != NULL && node != NULL;
         node = list_next(&self->tasks.live, node))
    {
        if (PyList_Append(list, (PyObject *)task_of_live(node)) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

const char Loop__is_root_doc[]
    = PyDoc_STR(
             "_is_root($self, task, /)\n--\n\n"
             "Return whether the pyloop.Task was given to run().");

PyObject *
Loop__is_root(LoopObject *self, PyObject *task)
{
    return PyBool_FromLong(Py_IS_TYPE(task, self->state->TaskType)
                           && ((TaskObject *)task)->is_root);
}

const char Loop__close_native_tasks_doc[]
    = PyDoc_STR(
             "_close_native_tasks($self, /)\n--\n\n"
             "Close the coroutines of all native tasks and report them as "
             "destroyed while pending.");

PyObject *
Loop__close_native_tasks(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    if (loop_is_running(self)) {
        PyErr_SetString(PyExc_RuntimeError, "the event loop is running");
        return NULL;
    }
    task_list_release(self);
    Py_RETURN_NONE;
}

const char Loop__describe_task_doc[]
    = PyDoc_STR(
             "_describe_task($self, task, /)\n--\n\n"
             "Return who the task is and where it waits, a str.");

PyObject *
Loop__describe_task(LoopObject *self, PyObject *task)
{
    if (!Py_IS_TYPE(task, self->state->TaskType)) {
        PyErr_Format(PyExc_TypeError, "not a pyloop.Task: %R", task);
        return NULL;
    }
    return task_describe((TaskObject *)task);
}

const char Loop__take_failed_doc[]
    = PyDoc_STR(
             "_take_failed($self, /)\n--\n\n"
             "Return the first root task that raised, once; then None.");

PyObject *
Loop__take_failed(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *task = self->tasks.failed;
    self->tasks.failed = NULL;
    return task != NULL ? task : Py_NewRef(Py_None);
}
