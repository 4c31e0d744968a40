"""From an estimator of scikit-learn to a program: linear parts folded into one product, trees side by side."""

from typing import Any, Callable, Dict, List, Optional

from runyard.scoring.builder import Builder, CannotCompileError

#: What numpy gives for scipy's sparse arrays and the like.
Array = Any


class Linear:
    """x -> x @ weights + offset, not yet a step: what follows may be folded into it."""

    def __init__(self, source: str, weights: Optional[Array], offset: Optional[Array], scale: Optional[Array]) -> None:
        #: Either ``weights``, a matrix, or ``scale``, its diagonal; neither: nothing was done yet.
        self.source, self.weights, self.offset, self.scale = source, weights, offset, scale


class SklearnWalk:
    """One estimator or pipeline on its way into a builder."""

    def __init__(self, builder: Builder, source: str) -> None:
        self._builder = builder
        self._linear = Linear(source, None, None, None)

    def transform(self, step: Any) -> None:
        """A transformer of a pipeline."""
        name = type(step).__name__
        handler = _TRANSFORMERS.get(name)
        if handler is None or _is_foreign(step):
            raise CannotCompileError(f"the transformer {name}")
        handler(self, step)

    def finish(self, estimator: Any, methods: List[str]) -> None:
        """The last step: what each of its methods gives."""
        name = type(estimator).__name__
        handler = _PREDICTORS.get(name)
        if handler is None or _is_foreign(estimator):
            raise CannotCompileError(f"the estimator {name}")
        made = handler(self, estimator)
        missing = [one for one in methods if one not in made]
        if missing:
            raise CannotCompileError(f"the method {missing[0]} of {name}")
        for method in methods:
            self._builder.results[method] = {method: made[method]}

    def last_transform(self) -> None:
        """A pipeline that ends in a transformer."""
        self._builder.results["transform"] = {"transform": self.tensor()}

    # What handlers do with it.

    @property
    def builder(self) -> Builder:
        """Where steps go."""
        return self._builder

    def scale(self, factor: Any, offset: Any) -> None:
        """x * factor + offset, by column."""
        import numpy

        linear, factor = self._linear, numpy.asarray(factor, dtype="float64")
        offset = numpy.asarray(offset, dtype="float64")
        before = 0.0 if linear.offset is None else linear.offset
        if linear.weights is not None:
            self._linear = Linear(linear.source, linear.weights * factor, before * factor + offset, None)
        else:
            scale = factor if linear.scale is None else linear.scale * factor
            self._linear = Linear(linear.source, None, before * factor + offset, scale)

    def multiply(self, weights: Array, offset: Any) -> None:
        """x @ weights + offset."""
        import numpy

        linear, weights = self._linear, numpy.asarray(weights, dtype="float64")
        moved = (
            offset if linear.offset is None else numpy.broadcast_to(linear.offset, weights.shape[:1]) @ weights + offset
        )
        if linear.weights is not None:
            weights = linear.weights @ weights
        elif linear.scale is not None:
            weights = numpy.broadcast_to(linear.scale, weights.shape[:1])[:, None] * weights
        self._linear = Linear(linear.source, weights, numpy.broadcast_to(moved, weights.shape[1:]), None)

    def tensor(self) -> str:
        """What was done so far, as steps; returns the tensor's name."""
        linear, builder = self._linear, self._builder
        if linear.weights is not None:
            made = builder.add(
                "Gemm", [linear.source, builder.constant(linear.weights), builder.constant(linear.offset)]
            )
        else:
            made = linear.source
            if linear.scale is not None:
                made = builder.add("Mul", [made, builder.constant(linear.scale)])
            if linear.offset is not None:
                made = builder.add("Add", [made, builder.constant(linear.offset)])
        self._linear = Linear(made, None, None, None)
        return made

    def replace(self, tensor: str) -> None:
        """Go on from that tensor."""
        self._linear = Linear(tensor, None, None, None)


def walk(builder: Builder, estimator: Any, methods: List[str], source: str, width: int) -> None:
    """Compile an estimator or pipeline that reads rows of ``width`` float64 from ``source``.

    CannotCompileError says why not.
    """
    if getattr(estimator, "feature_names_in_", None) is not None:
        raise CannotCompileError("columns that go by name")
    steps = [one for _, one in estimator.steps] if type(estimator).__name__ == "Pipeline" else [estimator]
    steps = [one for one in steps if one is not None and one != "passthrough"]
    allows_nan = _allows_nan(estimator, methods[0], width)
    path = SklearnWalk(builder, builder.add("Finite", [source], allow_nan=allows_nan))
    for step in steps[:-1]:
        path.transform(step)
    if methods == ["transform"]:
        path.transform(steps[-1])
        path.last_transform()
    else:
        path.finish(steps[-1], methods)


def _allows_nan(estimator: Any, method: str, width: int) -> bool:
    """Does the original take rows with missing values? It is asked: each step and each release has rules of its own."""
    import numpy

    try:
        getattr(estimator, method)(numpy.full((1, width), numpy.nan))
    except ValueError:
        return False
    return True


def _is_foreign(step: Any) -> bool:
    """Somebody's own class of the same name does what its own code says."""
    return not type(step).__module__.startswith("sklearn.")


def _standard(path: SklearnWalk, step: Any) -> None:
    scale = 1.0 if step.scale_ is None else 1.0 / step.scale_
    path.scale(scale, 0.0 if step.mean_ is None else -step.mean_ * scale)


def _min_max(path: SklearnWalk, step: Any) -> None:
    path.scale(step.scale_, step.min_)
    if getattr(step, "clip", False):
        least, most = step.feature_range
        path.replace(path.builder.add("Clip", [path.tensor()], least=float(least), most=float(most)))


def _max_abs(path: SklearnWalk, step: Any) -> None:
    path.scale(1.0 / step.scale_, 0.0)


def _robust(path: SklearnWalk, step: Any) -> None:
    scale = 1.0 if step.scale_ is None else 1.0 / step.scale_
    path.scale(scale, 0.0 if step.center_ is None else -step.center_ * scale)


def _pca(path: SklearnWalk, step: Any) -> None:
    import numpy

    weights = step.components_.T
    if step.whiten:
        weights = weights / numpy.maximum(numpy.sqrt(step.explained_variance_), numpy.finfo("float64").eps)
    path.multiply(weights, 0.0 if step.mean_ is None else -(step.mean_ @ weights))


def _svd(path: SklearnWalk, step: Any) -> None:
    path.multiply(step.components_.T, 0.0)


def _normalizer(path: SklearnWalk, step: Any) -> None:
    import numpy

    # Of some releases rows that are nearly zeros stay as they are, of others only zeros do.
    faint = numpy.full((1, getattr(step, "n_features_in_", 1)), 1e-30)
    least = 0.0 if abs(step.transform(faint)).max() > 1e-20 else 10 * numpy.finfo("float64").eps
    path.replace(path.builder.add("Normalize", [path.tensor()], norm=step.norm, least=float(least)))


def _imputer(path: SklearnWalk, step: Any) -> None:
    import numpy

    is_nan = isinstance(step.missing_values, float) and step.missing_values != step.missing_values
    if not is_nan or step.add_indicator or numpy.isnan(step.statistics_.astype("float64")).any():
        raise CannotCompileError("a SimpleImputer of that kind")
    values = path.builder.constant(step.statistics_.astype("float64"))
    path.replace(path.builder.add("Impute", [path.tensor(), values]))


def _selector(path: SklearnWalk, step: Any) -> None:
    path.replace(
        path.builder.add("Columns", [path.tensor()], indices=[int(one) for one in step.get_support(indices=True)])
    )


_TRANSFORMERS: Dict[str, Callable[[SklearnWalk, Any], None]] = {
    "StandardScaler": _standard, "MinMaxScaler": _min_max, "MaxAbsScaler": _max_abs, "RobustScaler": _robust,
    "PCA": _pca, "TruncatedSVD": _svd, "Normalizer": _normalizer, "SimpleImputer": _imputer, "SelectKBest": _selector,
    "VarianceThreshold": _selector, "SelectPercentile": _selector, "SelectFromModel": _selector,
}  # fmt: skip


def _classes(estimator: Any) -> Dict[str, Any]:
    """The labels, as JSON and the type that the estimator gives them in."""
    classes = estimator.classes_
    is_texts = not isinstance(classes, list) and all(isinstance(one, str) for one in classes.tolist())
    if isinstance(classes, list) or classes.ndim != 1 or not (is_texts or classes.dtype.kind in "biufS"):
        raise CannotCompileError("labels of that kind")
    return {"classes": classes.tolist(), "dtype": classes.dtype.str}


def _linear_scores(path: SklearnWalk, estimator: Any) -> str:
    import numpy

    # Of two classes some estimators keep a row of coefficients, some a table of one row.
    path.multiply(numpy.atleast_2d(estimator.coef_).T, numpy.atleast_1d(estimator.intercept_))
    return path.tensor()


def _linear_classifier(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    """Scores by class; of two classes there is one score."""
    scores, labels, builder = _linear_scores(path, estimator), _classes(estimator), path.builder
    if len(estimator.classes_) == 2:
        made = {"decision_function": builder.add("Reshape", [scores], shape=[-1])}
        made["predict"] = builder.add("SignLabels", [scores], **labels)
    else:
        made = {"decision_function": scores, "predict": builder.add("Labels", [scores], **labels)}
    return made


def _logistic(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    """Softmax over the classes, or one against the rest."""
    made, builder = _linear_classifier(path, estimator), path.builder
    scores = made["decision_function"]
    solver, multi = getattr(estimator, "solver", ""), getattr(estimator, "multi_class", "auto")
    is_rest = multi == "ovr" or (multi in ("warn", "auto", "deprecated") and solver == "liblinear")
    is_two = len(estimator.classes_) == 2
    if multi == "multinomial" and is_two:
        raise CannotCompileError("a multinomial LogisticRegression of two classes")
    if multi == "warn" and not is_two:
        is_rest = True
    if is_two:
        made["predict_proba"] = builder.add("BothSides", [builder.add("Sigmoid", [scores])])
    elif is_rest:
        made["predict_proba"] = builder.add("SumToOne", [builder.add("Sigmoid", [scores])])
    else:
        made["predict_proba"] = builder.add("Softmax", [scores])
    return made


def _sgd(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    made = _linear_classifier(path, estimator)
    if estimator.loss in ("log", "log_loss"):
        # As its own code has it: one against the rest, normalised.
        share = path.builder.add("Sigmoid", [made["decision_function"]])
        kind = "BothSides" if len(estimator.classes_) == 2 else "SumToOne"
        made["predict_proba"] = path.builder.add(kind, [share])
    return made


def _discriminant(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    """Linear discriminant analysis: scores, and their softmax; its transform is left to the original."""
    made = _linear_classifier(path, estimator)
    is_two = len(estimator.classes_) == 2
    scores = made["decision_function"]
    if is_two:
        made["predict_proba"] = path.builder.add("BothSides", [path.builder.add("Sigmoid", [scores])])
    else:
        made["predict_proba"] = path.builder.add("Softmax", [scores])
    return made


def _linear_regressor(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    import numpy

    coefficients = numpy.asarray(estimator.coef_.toarray() if hasattr(estimator.coef_, "toarray") else estimator.coef_)
    if coefficients.ndim == 1:
        path.multiply(coefficients[:, None], numpy.reshape(estimator.intercept_, -1))
        return {"predict": path.builder.add("Reshape", [path.tensor()], shape=[-1])}
    path.multiply(coefficients.T, estimator.intercept_)
    return {"predict": path.tensor()}


_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "softmax": "Softmax"}


def _network(path: SklearnWalk, estimator: Any) -> str:
    """A multilayer perceptron's last layer, activated."""
    last = len(estimator.coefs_) - 1
    for number, (weights, offset) in enumerate(zip(estimator.coefs_, estimator.intercepts_)):
        path.multiply(weights, offset)
        activation = estimator.out_activation_ if number == last else estimator.activation
        if activation != "identity":
            path.replace(path.builder.add(_ACTIVATIONS[activation], [path.tensor()]))
    return path.tensor()


def _network_classifier(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    labels, builder = _classes(estimator), path.builder
    if estimator.out_activation_ == "softmax":
        probabilities = _network(path, estimator)
    elif len(estimator.classes_) == 2:
        probabilities = builder.add("BothSides", [_network(path, estimator)])
    else:
        raise CannotCompileError("an MLPClassifier of several labels at once")
    return {
        "predict": builder.add("Labels", [probabilities], **labels),
        "predict_proba": probabilities,
    }


def _network_regressor(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    made = _network(path, estimator)
    is_one = estimator.n_outputs_ == 1
    return {"predict": path.builder.add("Reshape", [made], shape=[-1]) if is_one else made}


def _bayes(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    import numpy

    labels, builder = _classes(estimator), path.builder
    variances = getattr(estimator, "var_", None)
    variances = estimator.sigma_ if variances is None else variances
    constants = [builder.constant(one) for one in (estimator.theta_, variances, numpy.log(estimator.class_prior_))]
    joint = builder.add("Gaussians", [path.tensor(), *constants])
    probabilities = builder.add("SharesOfLogs", [joint])
    return {
        "predict": builder.add("Labels", [joint], **labels),
        "predict_proba": probabilities,
    }


def _kmeans(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    builder, tensor, centers = path.builder, path.tensor(), estimator.cluster_centers_.astype("float64")
    squared = builder.add("Distances", [tensor, builder.constant(centers)])
    # As its own code has it: without the square of the row, beside which a large row's centres would be all the same.
    offset = -(centers**2).sum(axis=1)
    nearer = builder.add("Gemm", [tensor, builder.constant(2 * centers.T), builder.constant(offset)])
    nearest = builder.add("ArgMax", [nearer], axis=1, to="int32")
    return {"predict": nearest, "transform": builder.add("Sqrt", [squared])}


def _grown(path: SklearnWalk, trees: List[Any], values: Callable[[Any], Array], **attributes: Any) -> str:
    """All trees in one step."""
    import numpy

    parts: Dict[str, List[Array]] = {
        name: [] for name in ("feature", "threshold", "left", "right", "nan_left", "values")
    }
    roots, at = [], 0
    for one in trees:
        tree = one.tree_
        count = tree.node_count
        nodes = numpy.arange(count)
        is_leaf = tree.children_left < 0
        nan_left = getattr(tree, "missing_go_to_left", None)
        parts["nan_left"].append(numpy.zeros(count, "bool") if nan_left is None else numpy.asarray(nan_left) != 0)
        parts["left"].append(numpy.where(is_leaf, nodes, tree.children_left) + at)
        parts["right"].append(numpy.where(is_leaf, nodes, tree.children_right) + at)
        parts["feature"].append(numpy.where(is_leaf, 0, tree.feature))
        parts["threshold"].append(numpy.where(is_leaf, 0.0, tree.threshold))
        parts["values"].append(values(one))
        roots.append(at)
        at += count
    builder = path.builder
    constants = [builder.constant(numpy.array(roots, dtype="int64"))]
    constants += [builder.constant(numpy.concatenate(parts[name])) for name in parts]
    depth = max(one.tree_.max_depth for one in trees)
    return builder.add("Trees", [path.tensor(), *constants], depth=int(depth), **attributes)


def _shares(tree: Any) -> Array:
    """Each node's classes as shares of one."""
    values = tree.tree_.value[:, 0, :]
    total = values.sum(axis=1, keepdims=True)
    return values / total


def _forest_classifier(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    labels, builder = _classes(estimator), path.builder
    trees = list(getattr(estimator, "estimators_", [estimator]))
    probabilities = _grown(path, trees, _shares, aggregate="mean")
    return {
        "predict": builder.add("Labels", [probabilities], **labels),
        "predict_proba": probabilities,
    }


def _forest_regressor(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    trees = list(getattr(estimator, "estimators_", [estimator]))
    found = _grown(path, trees, lambda one: one.tree_.value[:, :, 0], aggregate="mean")
    is_one = trees[0].tree_.value.shape[1] == 1
    return {"predict": path.builder.add("Reshape", [found], shape=[-1]) if is_one else found}


def _boosted(path: SklearnWalk, estimator: Any) -> str:
    """Raw scores: what boosting begins with, and each tree's share."""
    import numpy

    columns = estimator.estimators_.shape[1]
    width = estimator.estimators_[0, 0].tree_.n_features
    if estimator.init_ != "zero" and type(estimator.init_).__name__ not in (
        "DummyClassifier",
        "DummyRegressor",
        "QuantileEstimator",
        "LogOddsEstimator",
        "PriorProbabilityEstimator",
        "MeanEstimator",
    ):
        raise CannotCompileError("boosting that begins with an estimator of one's own")
    builder, source = path.builder, path.tensor()
    parts = []
    zeros = numpy.zeros((1, width))
    begun = estimator.decision_function(zeros) if hasattr(estimator, "classes_") else estimator.predict(zeros)
    begun = numpy.reshape(begun, (1, -1)).copy()
    for column in range(columns):
        trees = list(estimator.estimators_[:, column])
        begun[0, column] -= estimator.learning_rate * sum(float(one.predict(zeros)[0]) for one in trees)
        path.replace(source)
        parts.append(
            _grown(
                path, trees, lambda one: one.tree_.value[:, 0, :], aggregate="sum", scale=float(estimator.learning_rate)
            )
        )
    together = parts[0] if columns == 1 else builder.add("Concat", parts, axis=1)
    return builder.add("Add", [together, builder.constant(begun)])


def _boosted_classifier(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    if estimator.loss not in ("deviance", "log_loss"):
        raise CannotCompileError(f"boosting with the loss {estimator.loss}")
    labels, builder = _classes(estimator), path.builder
    scores = _boosted(path, estimator)
    if len(estimator.classes_) == 2:
        probabilities = builder.add("BothSides", [builder.add("Sigmoid", [scores])])
        decision = builder.add("Reshape", [scores], shape=[-1])
    else:
        probabilities, decision = builder.add("Softmax", [scores]), scores
    return {
        "predict": builder.add("Labels", [probabilities], **labels),
        "predict_proba": probabilities,
        "decision_function": decision,
    }


def _boosted_regressor(path: SklearnWalk, estimator: Any) -> Dict[str, str]:
    return {"predict": path.builder.add("Reshape", [_boosted(path, estimator)], shape=[-1])}


_PREDICTORS: Dict[str, Callable[[SklearnWalk, Any], Dict[str, str]]] = {
    **dict.fromkeys(("LogisticRegression", "LogisticRegressionCV"), _logistic),
    **dict.fromkeys(
        ("LinearSVC", "RidgeClassifier", "RidgeClassifierCV", "Perceptron", "PassiveAggressiveClassifier"),
        _linear_classifier,
    ),
    "SGDClassifier": _sgd,
    "LinearDiscriminantAnalysis": _discriminant,
    **dict.fromkeys(
        (
            "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "SGDRegressor",
            "LinearSVR", "BayesianRidge", "HuberRegressor", "Lars", "LassoLars", "OrthogonalMatchingPursuit",
            "PassiveAggressiveRegressor", "TheilSenRegressor", "ARDRegression",
        ),
        _linear_regressor,
    ),
    "MLPClassifier": _network_classifier,
    "MLPRegressor": _network_regressor,
    "GaussianNB": _bayes,
    "KMeans": _kmeans,
    "MiniBatchKMeans": _kmeans,
    **dict.fromkeys(
        ("DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier"),
        _forest_classifier,
    ),
    **dict.fromkeys(
        ("DecisionTreeRegressor", "ExtraTreeRegressor", "RandomForestRegressor", "ExtraTreesRegressor"),
        _forest_regressor,
    ),
    "GradientBoostingClassifier": _boosted_classifier,
    "GradientBoostingRegressor": _boosted_regressor,
}  # fmt: skip
